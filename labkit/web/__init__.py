"""The codec in a web page: a second implementation of the `.lkc` format in JavaScript, with its own weight format."""
