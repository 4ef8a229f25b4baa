"""The documentation site: what MkDocs builds from docs/, with reference pages that follow from the code."""
