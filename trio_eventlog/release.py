"""The release of this package. Builds take it from here: to read installed metadata costs a start 20 ms."""

VERSION = "0.1.0.dev0"
