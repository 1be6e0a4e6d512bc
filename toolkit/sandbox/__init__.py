"""The sandbox: shows drawn by code, their truth, and a tiny real Wan pretrained on the same world."""
