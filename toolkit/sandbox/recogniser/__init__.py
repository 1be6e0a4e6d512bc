"""Networks that read who does what in a drawn clip."""
