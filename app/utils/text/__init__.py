"""Forms of text: Unicode NFC, folding, characters that are displayed as nothing, and e-mail addresses."""
