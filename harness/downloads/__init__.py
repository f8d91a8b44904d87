"""Downloads that can be broken off and go on: weights and prompt lists into one data folder."""
