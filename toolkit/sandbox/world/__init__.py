"""The drawn world: shows, characters, actions, scenery."""
