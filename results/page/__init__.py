"""Tables -> one HTML page that needs no network."""
