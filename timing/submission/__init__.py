"""Submissions: what an entrant hands in, packed from the records, and checked as an organizer would."""
