"""Pure figure functions: records and arrays in, a plotly figure out. One file a figure; none reads a store or knows the page."""
