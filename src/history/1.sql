-- An experiment that was added.
CREATE TABLE run (
  id INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE, -- of everything that was added: the same results are added once
  started TEXT NOT NULL, -- UTC, as YYYY-MM-DDTHH:MM:SSZ: texts in the order of times
  version TEXT NOT NULL, -- of the program
  commit_id TEXT, -- null outside a checkout
  source TEXT NOT NULL, -- the start of the SHA-256 of the program's sources
  device TEXT NOT NULL
) STRICT;

-- Values that compare with each other.
CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  experiment TEXT NOT NULL,
  plan TEXT NOT NULL, -- SHA-256
  data TEXT NOT NULL, -- SHA-256
  fingerprint TEXT NOT NULL, -- of the arithmetic for exact metrics, of the machine for times
  key TEXT NOT NULL, -- VARIANT/METRIC or VARIANT/METRIC/seed-N
  UNIQUE (experiment, plan, data, fingerprint, key)
) STRICT;

-- A value: an integer, a real number, a text, or null where it was not finite. The rows of a series lie together.
CREATE TABLE point (
  series INTEGER NOT NULL REFERENCES series,
  run INTEGER NOT NULL REFERENCES run,
  value ANY,
  PRIMARY KEY (series, run)
) STRICT, WITHOUT ROWID;
