"""SASRec (Kang & McAuley, Self-attentive sequential recommendation, ICDM 2018)."""
