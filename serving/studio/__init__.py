"""`get3d studio`: a page that samples from a running server, and its viewer for pages that carry their meshes."""
