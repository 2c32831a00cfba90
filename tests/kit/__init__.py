"""What several parts' tests build on."""
