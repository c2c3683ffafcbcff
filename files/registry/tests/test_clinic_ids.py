"""The registry takes the ids of clinics that everybody else takes, and no others."""

from __future__ import annotations

import psycopg
import pytest
from grammar_examples import CLINIC_IDS, NO_CLINIC_IDS


@pytest.fixture
def operator(registry):
    with registry.connect("registry_operator") as connection:
        yield connection


@pytest.mark.parametrize("clinic_id", CLINIC_IDS)
def test_a_good_id_becomes_a_clinic(operator, clinic_id):
    assert operator.execute("SELECT registry.upsert_clinic(%s, 'A clinic')", (clinic_id,)).fetchone() == ("created",)


@pytest.mark.parametrize("clinic_id", NO_CLINIC_IDS)
def test_a_bad_id_does_not(operator, clinic_id):
    # psycopg itself sends no text that has a NUL.
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.DataError)):
        operator.execute("SELECT registry.upsert_clinic(%s, 'A clinic')", (clinic_id,))
