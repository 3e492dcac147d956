"""From items and histories to token ids: prompt files, the one encoder, previews."""
