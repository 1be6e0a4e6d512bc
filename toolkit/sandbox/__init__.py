"""The sandbox: a drawn world with its truth, and a tiny Wan that knows it."""
