"""From prompts to latents and videos."""
