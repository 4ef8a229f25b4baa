"""The documentation site that MkDocs builds from docs/, with reference pages generated from the code."""
