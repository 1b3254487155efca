"""From findings to incidents, and from incidents to the receivers."""
