"""The object store: one door for `file:`, `s3:` and `supabase:`."""
