"""The verbs, as functions that the command line, the hook and the CSI driver call alike.

Each module holds one group of verbs and loads only what that group needs; nothing here prints or exits.
"""
