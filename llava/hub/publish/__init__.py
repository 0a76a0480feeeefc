"""What is checked before an upload, and the upload."""
