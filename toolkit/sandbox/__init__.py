"""The sandbox: shows drawn by code, their truth, and a tiny real Wan that was pretrained on the same world."""
