"""Where data come from: one reader per source, and a catalogue that is generated."""
