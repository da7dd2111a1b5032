"""Where a model is wrong, and why: findings by topic, as JSON and as a page."""
