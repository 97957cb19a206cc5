"""The page of ``stratum serve --web``: what the store holds, for people with a browser. HTML is made here, needs no
JavaScript, and shows names as what they are: bytes that anyone may have chosen."""
