"""Pages a reviewer opens in a browser: static files, no server, no request to anywhere."""
