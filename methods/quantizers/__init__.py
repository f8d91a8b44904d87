"""How stored tokens are encoded: one class a module."""
