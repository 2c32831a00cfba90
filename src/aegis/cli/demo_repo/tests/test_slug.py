import unittest

from textkit.slug import slugify


class SlugTest(unittest.TestCase):
    def test_lower_case(self):
        self.assertEqual(slugify("Hello World"), "hello-world")

    def test_punctuation_goes(self):
        self.assertEqual(slugify("What's new, today?"), "what-s-new-today")

    def test_runs_of_separators(self):
        self.assertEqual(slugify("  a --  b  "), "a-b")

    def test_a_plain_word_stays(self):
        self.assertEqual(slugify("word"), "word")
