"""Reports on any range of rows: one profile, one look, told as a table or as a page that stands alone."""
