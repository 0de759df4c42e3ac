"""The page: what a trained run recommends, to be looked at, tried and compared in a browser.

Written on the server, usable without scripts, and asking for nothing from outside.
"""
