"""The codec in a web page: a second implementation of the `.lkc` format in JavaScript, and weights in a form for it."""
