"""One wire protocol a venue, pure: bytes in, messages out."""
