"""Tables, figures and the report, each one script, each read from result files."""
