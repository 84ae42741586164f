"""What runs where parts are made: predictions, exported files, a server."""
