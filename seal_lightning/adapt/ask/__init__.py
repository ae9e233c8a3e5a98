"""Questions to adapted models: where adapters lie, how a question is put, and how answers are written."""
