"""Published tables as data, a YAML file for each paper (see `harness.reporting.papers_schema`)."""
