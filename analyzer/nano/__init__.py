"""The small configuration of Video-XL-2 that ships with its weights, and how it was taught."""
