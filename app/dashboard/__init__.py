"""What people see: pages, made on the server. All that they do is what the API does, through the same calls."""
