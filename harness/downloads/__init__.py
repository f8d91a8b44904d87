"""Downloads of weights and prompt lists into one data folder, resumable at any point."""
