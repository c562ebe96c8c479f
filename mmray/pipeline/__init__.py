"""Stages over millions of items, on Ray Data or in this process, and the datasets they write."""
