"""What crosses the mesh between processes: names, dtypes, status Structs, the quote schema."""
