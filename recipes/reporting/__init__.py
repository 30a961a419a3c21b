"""The HTML page and the tables of `crossthink report`, made from what runs and evaluations left on disk."""
