"""A model's name to a local folder, its tokenizer, and the network itself."""
