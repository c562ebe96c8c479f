"""A picture becomes a passage in the style of a book.

After the neural-storyteller (Kiros, 2015): the mean vector of sentences about a picture, less that
of captions, plus that of a book, is written out by a decoder that learned from all of them.
"""
