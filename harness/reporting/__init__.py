"""Tables and reports made of saved results."""
