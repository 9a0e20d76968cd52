"""Makes pictures, tables, pages and exports from recorded runs."""
