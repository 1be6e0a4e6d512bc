"""Characters cut out of one show and pasted into another."""
