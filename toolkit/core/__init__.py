"""What every package needs: errors, files, seeds, progress, run records."""
