"""How other trainers ask for rewards: OpenRLHF, NeMo-Gym, verl, TRL, NeMo-Aligner. One module each (docs/adapters.md).

The rules, the verdicts and their meaning are the server's; nothing here judges.
"""
