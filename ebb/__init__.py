"""What Ebb's processes share: model, errors, configuration, transport. Imports nothing else of Ebb."""
