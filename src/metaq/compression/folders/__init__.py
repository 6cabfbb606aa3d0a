"""Model folders: safetensors shards with their small files, streamed into a ``.metaq`` file and back."""
