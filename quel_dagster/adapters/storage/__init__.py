"""The object store: `file:`, `s3:` and `supabase:` behind one interface."""
