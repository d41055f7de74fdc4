"""The C11 core and its thin binding; the layout of every byte is in layout.h."""
